"""Which segmenter the settings ask for."""

from config.settings import ModelSettings
from ct.anatomy import Segmenter


def load_segmenter(settings: ModelSettings, device: str = "cpu") -> Segmenter:
    """The provider named by `settings.segmenter`, with its weights loaded.

    Raises SegmenterWeightsError if they are missing or unfit.
    """
    if settings.segmenter == "totalsegmentator":
        from ct.totalsegmentator import TotalSegmentator

        return TotalSegmentator(
            settings.totalsegmentator_weights,
            fast=settings.totalsegmentator_fast,
            device=device,
            frugal=settings.frugal,
        )
    if settings.segmenter in ("nnunet", "monai"):
        assert settings.segmenter_dir is not None  # the settings see to it
        assert settings.segmenter_labels is not None
        if settings.segmenter == "nnunet":
            from ct.nnunet import NnUNet

            return NnUNet(settings.segmenter_dir, settings.segmenter_labels, device)
        from ct.monai_bundle import MonaiBundle

        return MonaiBundle(settings.segmenter_dir, settings.segmenter_labels, device)
    from ct.bundled import BundledSegmenter

    return BundledSegmenter(device=device)
