"""What is rendered, for people: sources of faces, pictures and sheets of them, games, and the page."""
