"`python -m saerec` is the command `saerec`."
import sys

from saerec.cli.command import main

if __name__ == "__main__": sys.exit(main())
