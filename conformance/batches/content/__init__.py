"""Content of generated batches: ground truths, predictions, keypoints and masks of every kind."""
