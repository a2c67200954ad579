"""A segmenter of renal vein, kidney, renal artery and tumour, trained on image and label folders as KiPA22 has them."""
