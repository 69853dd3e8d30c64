"""Recognition: how good a page's text layer is, and characters from images where it is missing or wrong."""
