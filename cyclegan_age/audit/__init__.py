"""What may be wrong with the pictures and labels of a folder of faces, and taking such pictures out and back."""
