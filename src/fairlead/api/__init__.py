"""Types that cross a seam between packages and hold more than the standard library: tensors."""
