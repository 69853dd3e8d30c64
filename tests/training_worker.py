"""One of several processes: joins the others and writes the gradients of a step, which every one of them must have.

Arguments: base model's folder, file for the gradients, "mpi" or "torchrun".
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from training_helpers import gradients_of, made_pairs, tiny_settings, trainer

from hiperrag.encoders.training.ranks import join, leave


def main(base: str, target: str, launcher: str) -> None:
    torch.set_num_threads(1)
    ranks = join(launcher == "mpi", "cpu")
    settings = tiny_settings(Path(base), batch=24, hard_negatives=2, learn_temperature=True, negatives=20)
    made = trainer(settings, made_pairs(48, negatives=2), Path(target).parent, ranks)
    save_file(gradients_of(made, step=1), Path(f"{target}.{ranks.rank}-of-{ranks.size}"))
    leave(ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
