"""Files that become datasets. numpy and the standard library; never torch."""
