"""What `torch.compile` gives: agreement with one operation after the other, and epochs."""

from __future__ import annotations

from gpu_steps.agreement import capturable, execution
from gpu_steps.common import Job
from gpu_steps.epochs import corpus_of, epoch


def run(job: Job) -> None:
    """The recipes' model first; every size of batch is compiled anew, which takes most of the time."""
    execution(job, "amb-dsgdn", "compile")
    for corpus in ("iemocap", "meld"):
        with corpus_of(job, corpus) as (plan, data):
            for precision in ("float32", "bfloat16"):
                epoch(job, corpus, plan, data, "compile", precision)
    for name in capturable():
        execution(job, name, "compile")
