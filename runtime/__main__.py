"""`python -m perdure.runtime serve …` is `perdure serve …`."""

from perdure.runtime.cli import main

if __name__ == "__main__":
    main()
