"""What feeds training: data sets described in a manifest, checked, measured, resampled and augmented."""
