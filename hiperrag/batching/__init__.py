"""Files of requests in OpenAI's batch format, answered by the service's own application in this process."""
