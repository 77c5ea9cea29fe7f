"""Peaks of a few NVIDIA chips by their vendor: dense (no 2:4 sparsity), two operations a multiply-add."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One board.

    names: what the driver calls it. capability: 10 * major + minor. bandwidth: of its memory, GB/s.
    int8, b1: peak of the tensor cores, TOPS; b1 None where the vendor gives no figure. source: of all of these.
    """

    names: tuple[str, ...]
    capability: int
    multiprocessors: int
    bandwidth: float
    int8: float
    source: str
    b1: float | None = None

    @property
    def has_bit_mma(self) -> bool:
        """Whether b1 MMA runs on the tensor cores; sm_100 and later emulate it, there the bits become int8."""
        return self.capability < 100

    @property
    def mma_rates(self) -> tuple[float, float]:
        """(least, most) TOPS to expect of the MMA that the kernels issue; apart where nobody has published the rate.

        The one published b1 rate is that of the A100: 8 times int8, or 16,384 multiply-adds a clock and multiprocessor.
        Assumed for the others: at least the int8 rate; at most 8 times that, and 4 times on Hopper, which doubled int8
        per multiprocessor: the same 16,384.
        """
        if not self.has_bit_mma:
            return self.int8, self.int8
        if self.b1 is not None:
            return self.b1, self.b1
        return self.int8, self.int8 * (4 if self.capability == 90 else 8)


_A100 = "A100 data sheet (2021); b1: A100 architecture white paper, table 2"
_H100 = "H100 data sheet; multiprocessors: H100 architecture white paper"
CHIPS: dict[str, Chip] = {
    "T4": Chip(("Tesla T4",), 75, 40, 320, 130, "T4 data sheet; multiprocessors: Turing architecture white paper"),
    "A100 40GB": Chip(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 80, 108, 1555, 624, _A100, 4992),
    "A100 80GB SXM": Chip(("NVIDIA A100-SXM4-80GB",), 80, 108, 2039, 624, _A100, 4992),
    "A100 80GB PCIe": Chip(("NVIDIA A100 80GB PCIe",), 80, 108, 1935, 624, _A100, 4992),
    "L4": Chip(("NVIDIA L4",), 89, 58, 300, 242, "L4 data sheet; multiprocessors: Ada architecture white paper 2.01"),
    "RTX 4090": Chip(("NVIDIA GeForce RTX 4090",), 89, 128, 1008, 660.6, "Ada architecture white paper, appendix A"),
    "H100 PCIe": Chip(("NVIDIA H100 PCIe",), 90, 114, 2000, 1513, _H100),
    "H100 SXM": Chip(("NVIDIA H100 80GB HBM3",), 90, 132, 3350, 1979, _H100),
    "H200": Chip(("NVIDIA H200",), 90, 132, 4800, 1979, "H200 data sheet; multiprocessors as the H100 SXM"),
    "B200": Chip(("NVIDIA B200",), 100, 148, 8000, 4500, "DGX B200 data sheet, an eighth; multiprocessors: the driver"),
    "RTX 5090": Chip(
        ("NVIDIA GeForce RTX 5090",), 120, 170, 1792, 838, "RTX Blackwell architecture white paper, appendix A"
    ),
}


def find(device_name: str) -> Chip | None:
    """The chip that the driver calls `device_name`, whole: an L40 is no L4."""
    return next((chip for chip in CHIPS.values() if device_name in chip.names), None)
