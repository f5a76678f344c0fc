"""Sample captures with known causes, and the lab that makes them."""
