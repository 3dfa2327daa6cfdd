"""Parts of ``benchmarks/train_throughput.py``.

settings.py  shapes, the table of settings, recipes      rows.py   generated samples
base.py      a random base of a shape                    jobs.py   one process per measurement
training.py  what runs in it                             meter.py  what is read there
flops.py     operations of a step                        watch.py  device, GPU utilisation, host memory
tables.py    Markdown and plot
"""
