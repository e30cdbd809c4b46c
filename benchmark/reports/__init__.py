"""What leaves the house: aggregate rows and the boards rendered from them."""
