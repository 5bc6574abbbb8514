"""Networks on the CPU in PyTorch and in OpenVINO, in turn in one run; with --onnx also in ONNX Runtime.

    python benchmarks/runtimes.py [--threads 1 2] [--seconds 8] [--onnx]

Prints for each network images a second, the ratio to PyTorch, and the greatest difference from PyTorch's values as a
share of the largest. Networks have the real shapes and random weights. --onnx needs the packages onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
import io
import time
import warnings

import numpy as np
import torch

from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder


def onnx_session(encoder: FaceEncoder, threads: int):
    """The encoder's network in ONNX Runtime, from normalised images to vectors."""
    import onnxruntime

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = encoder.net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return encoder.forward(images)

    side, channels = encoder.expected.side, 1 if encoder.expected.grey else 3
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Network().eval(),
            (torch.zeros(1, channels, side, side),),
            written,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(written.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"x": images.contiguous().numpy()})[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=8, help="for each network and number of threads")
    parser.add_argument("--onnx", action="store_true")
    given = parser.parse_args()
    print("| network | threads | runtime | images a second | relative | difference |\n|---|---|---|---|---|---|")
    for name in ARCHITECTURES:
        for threads in given.threads:
            torch.set_num_threads(threads)
            plain = FaceEncoder(name, "random")
            ways = {"PyTorch": plain, "OpenVINO": FaceEncoder(name, "random", runtime="openvino")}
            if given.onnx:
                ways["ONNX Runtime"] = FaceEncoder(name, "random")
                session = onnx_session(plain, threads)
                ways["ONNX Runtime"].forward = session  # what normalises and batches is the encoder's own in each way
                ways["ONNX Runtime"]._layout = torch.contiguous_format
            side = plain.expected.side
            shape = (32, side, side) if plain.expected.grey else (32, side, side, 3)
            crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            values = {way: next(iter(encoder.utterances([crops])))[1] for way, encoder in ways.items()}
            best, began = dict.fromkeys(ways, float("inf")), time.perf_counter()
            while time.perf_counter() - began < given.seconds:
                for way, encoder in ways.items():
                    before = time.perf_counter()
                    next(iter(encoder.utterances([crops])))
                    best[way] = min(best[way], time.perf_counter() - before)
            for way, seconds in best.items():
                difference = np.abs(values[way] - values["PyTorch"]).max() / np.abs(values["PyTorch"]).max()
                print(
                    f"| {name} | {threads} | {way} | {32 / seconds:.1f} | {best['PyTorch'] / seconds:.2f} | "
                    f"{difference:.0e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
