"""Label files in the forms people have, and the series that a label means."""
