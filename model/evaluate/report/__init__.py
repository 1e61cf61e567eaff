"""An evaluation as people read it: an HTML page with plots, and tables in the terminal."""
