"""`python -m helpers.learn`: judges answers that stdin holds, away from whoever asked."""

from helpers.learn.grading import main

if __name__ == "__main__":
    main()
