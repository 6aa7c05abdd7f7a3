"""What every part of the house needs: settings, errors, files, steps."""
