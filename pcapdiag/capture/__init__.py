"""Step 1: the bytes of a capture on disk or in a pipe -> Frames."""

from pcapdiag.capture.frames import Capture, Frames, Interface
from pcapdiag.capture.reader import CaptureReader, read_capture

__all__ = ["Capture", "CaptureReader", "Frames", "Interface", "read_capture"]
