"`python -m saerec.train` trains and scores, alone or under `torchrun`."
from saerec.train.processes import exit_group
from saerec.train.program import main

if __name__ == "__main__": exit_group(main())
