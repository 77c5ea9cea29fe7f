"""OpenVINO's BinaryConvolution, answering bench/_peers.py: `python -m bench.peer_openvino THREADS`.

Binarisation to 0 and 1 and channels-last memory are what the CPU plugin keeps as bits between the layers: with -1 and 1
it writes floats, and a reference reorder follows. Batch norm joins the convolution before it. Where a layer can't
follow itself, four stand side by side and write floats, each with a binarisation of its own: of convolutions that share
their input OpenVINO runs one, whatever their filters are.
"""

from collections.abc import Callable
from types import SimpleNamespace

from bench.peer_server import four, serve


def build(layer: SimpleNamespace, threads: int) -> Callable[[], object]:
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    if layer.groups > 1:
        raise ValueError("no BinaryConvolution with groups")
    random = np.random.default_rng(0)

    def channels(count: int):
        return op.constant(random.standard_normal((1, count, 1, 1), dtype=np.float32))

    def block(y):
        threshold = channels(layer.c)
        y = op.fake_quantize(y, threshold, threshold, np.float32(0), np.float32(1), 2)
        bits = random.integers(0, 256, layer.k * layer.c * layer.r * layer.s // 8, dtype=np.uint8)
        weight = ov.Tensor(bits, ov.Shape([layer.k, layer.c, layer.r, layer.s]), ov.Type.u1)
        geometry = (layer.stride, layer.padding, layer.padding, layer.dilation)
        y = op.binary_convolution(y, ov.op.Constant(weight), *geometry, "xnor-popcount", 0.0)
        return op.add(op.multiply(y, channels(layer.k)), channels(layer.k))

    image = op.parameter([layer.n, layer.h, layer.w, layer.c], np.float32)
    x = op.transpose(image, op.constant([0, 3, 1, 2]))
    model = ov.Model([op.transpose(y, op.constant([0, 2, 3, 1])) for y in four(layer, x, block)], [image], "peer")
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(random.standard_normal(list(image.shape), dtype=np.float32)))
    return request.infer


if __name__ == "__main__":
    serve("openvino", build)
