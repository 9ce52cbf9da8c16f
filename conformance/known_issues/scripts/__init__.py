"""One script a finding: it needs torch and ultralytics alone, and exits with 0 while the finding reproduces, else 1."""
