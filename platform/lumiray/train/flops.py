"""Model FLOPs utilisation: arithmetic that the model needs, over what the device could do in that time."""

from __future__ import annotations

# dense 16-bit tensor-core peaks from the makers' data sheets, FLOP/s
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "T4": 65e12,
}


def device_peak(name: str) -> float | None:
    """Peak 16-bit FLOP/s of a device by its name, None if unknown."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def model_flops_utilisation(flops_per_sample: float | None, samples_per_s: float, num_devices: int) -> float | None:
    """Share of the peak in [0, 1], or None where the model's work or the device's peak is not known."""
    import torch

    if flops_per_sample is None or not torch.cuda.is_available():
        return None
    peak = device_peak(torch.cuda.get_device_name())
    return None if peak is None else flops_per_sample * samples_per_s / (num_devices * peak)
