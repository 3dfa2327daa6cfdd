"""An installation and its machine -> what is wrong with them."""
