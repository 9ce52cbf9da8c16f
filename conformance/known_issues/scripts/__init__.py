"""Scripts of the findings. A script needs torch and ultralytics only, and exits with 0 if the finding reproduces."""
