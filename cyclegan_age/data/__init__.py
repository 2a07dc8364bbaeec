"""From a folder of faces to batches: labels, the cache of decoded pictures, balanced sampling."""
