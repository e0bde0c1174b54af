"""One side of a check alone: the original in its own software, or the port in Keras.

    python -m benchmarks.scripts.alone (reference|port) PORT ORIGINAL

The images are those of a check without options.
"""

import sys
from pathlib import Path

from densenet_port.conversion.load import read
from densenet_port.prove import images, recording

if __name__ == "__main__":
    port, source = (read(Path(name)) for name in sys.argv[2:])
    probes = images.make_probes(source, images.SIZES, images.BATCH, None, 0)
    if sys.argv[1] == "reference":
        recording.run_reference(source, probes)
    else:
        recording.run_port(port, probes)
