"""One file per method, named as its paper is named."""
