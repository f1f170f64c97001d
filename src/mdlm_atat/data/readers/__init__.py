"""How files become documents: `kinds.py` has the table of formats, the other modules read a family of formats each."""
