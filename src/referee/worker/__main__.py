"""`python -m referee.worker`."""

from referee.worker.main import main

raise SystemExit(main())
