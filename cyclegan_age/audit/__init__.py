"""Find faulty pictures and labels in a folder of faces, move such pictures out, and move them back."""
