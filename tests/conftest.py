import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: threads of one would wait for the other's
