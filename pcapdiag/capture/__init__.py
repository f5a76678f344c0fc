"""Step 1: the bytes of a capture on disk or in a pipe -> Frames."""

from pcapdiag.capture.frames import Capture, Frames, Interface
from pcapdiag.capture.inputs import gather_inputs
from pcapdiag.capture.reader import CaptureReader, read_capture
from pcapdiag.capture.recordings import Recordings

__all__ = ["Capture", "CaptureReader", "Frames", "Interface", "Recordings", "gather_inputs", "read_capture"]
