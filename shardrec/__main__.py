from shardrec.trainer.cli import main

main()
