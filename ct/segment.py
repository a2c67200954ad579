"""Which segmenter the settings ask for."""

from config.settings import ModelSettings
from ct.anatomy import Segmenter


def load_segmenter(settings: ModelSettings, device: str = "cpu") -> Segmenter:
    """The provider named by `settings.segmenter`, with its weights loaded.

    Raises SegmenterWeightsError if they are missing.
    """
    if settings.segmenter == "totalsegmentator":
        from ct.totalsegmentator import TotalSegmentator

        return TotalSegmentator(
            settings.totalsegmentator_weights,
            fast=settings.totalsegmentator_fast,
            device=device,
            frugal=settings.frugal,
        )
    from ct.bundled import BundledSegmenter

    return BundledSegmenter(device=device)
