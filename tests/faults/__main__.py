"""`python -m tests.faults --out FILE`: trials by the hundred, each appended to the file, which is gone on with."""

from tests.faults.campaign import main

if __name__ == "__main__":
    main()
