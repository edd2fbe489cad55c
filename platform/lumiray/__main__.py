"""`python -m lumiray` is the `lumiray` command."""

import sys

from lumiray.cli import main

sys.exit(main())
