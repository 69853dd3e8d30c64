"""The tasks, by name."""

from __future__ import annotations

from hiperrag.benchmarks.evaluation.items import Task
from hiperrag.benchmarks.evaluation.tasks import multiple_choice, pubmedqa, sciq

TASKS: dict[str, Task] = {task.name: task for task in (sciq.TASK, pubmedqa.TASK, multiple_choice.TASK)}
