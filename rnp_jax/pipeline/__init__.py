"""One checkpoint, one method: open, run, measure, judge, write. The command line, sweeps and Python share it."""
