"""Masking strategies, one a file: `rates.MaskingScheduler` says what a strategy is."""
