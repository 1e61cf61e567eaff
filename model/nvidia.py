"""Which NVIDIA driver this machine has, and which JAX goes with it.

`make setup` runs this file before anything is installed, so it needs only the standard library:

    python model/nvidia.py [cpu | cuda12 | cuda13]     prints the extra to install, if any; and why, on stderr
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

OLDEST_DRIVER = {"cuda13": 580, "cuda12": 525}
"""Major version of the driver that each extra needs at least; the newest extra first."""
CPU = "cpu"


def find_driver() -> str | None:
    """Version of the NVIDIA driver, such as "580.82.07"; `None` without a GPU that answers. Asks `nvidia-smi`,
    which takes up to a second."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    question = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(question, capture_output=True, text=True, timeout=30)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    version = re.match(r"\d+(\.\d+)*", said.stdout.strip())
    return version[0] if version and said.returncode == 0 else None


def extra_for(driver: str) -> str | None:
    """The extra for a driver of that version; `None` if it is too old for any."""
    major = int(driver.split(".")[0])
    return next((extra for extra, oldest in OLDEST_DRIVER.items() if major >= oldest), None)


def choose(wanted: str) -> tuple[str | None, str]:
    """The extra to install, `None` for CPUs alone, and one line that says why.

    `wanted` is "cpu", "cuda12" or "cuda13", or empty to go by the driver. Raises `ValueError` for others.
    """
    if wanted not in ("", CPU, *OLDEST_DRIVER):
        raise ValueError(f"ACCELERATOR={wanted}: expected cpu, cuda12 or cuda13")
    if wanted:
        return (None if wanted == CPU else wanted), f"JAX for {wanted}, as asked"
    if not sys.platform.startswith("linux"):
        return None, "JAX for CPUs: it supports NVIDIA GPUs on Linux only"
    driver = find_driver()
    if driver is None:
        return (
            None,
            "JAX for CPUs: no NVIDIA driver found (ACCELERATOR=cuda13 installs the one for GPUs)",
        )
    extra = extra_for(driver)
    if extra is None:
        oldest = min(OLDEST_DRIVER.values())
        return (
            None,
            f"JAX for CPUs: the NVIDIA driver {driver} is older than {oldest}: update it, then run again",
        )
    return extra, f"NVIDIA driver {driver}: JAX for {extra} (ACCELERATOR=cpu leaves it out)"


def main() -> None:
    try:
        extra, why = choose(sys.argv[1] if len(sys.argv) > 1 else "")
    except ValueError as error:
        sys.exit(str(error))
    print(why, file=sys.stderr)
    print(extra or "")


if __name__ == "__main__":
    main()
