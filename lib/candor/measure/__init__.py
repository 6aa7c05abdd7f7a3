"""Pure functions of arrays: calibration and intervals. They know neither worlds nor claims."""
