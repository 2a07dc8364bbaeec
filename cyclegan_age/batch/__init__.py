"""Many pictures at other ages, by several processes or machines."""
