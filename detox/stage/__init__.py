"""What every stage of the pipeline needs, whatever it does.

The command line:
    cli             a stage run with settings from flags; errors as one line, exit codes, signals
    parsing         words to settings; what is wrong with a word
    settings_file   settings from a file, as words
    help_text       what `--help` prints
    flags           every flag as `config.py` declares it: name, kind, default, description
    rules           what values settings may have, declared beside their fields
    commands        what to type for a stage of the same run
    paths           names of folders and files as people type them
    environment     variables that are no numbers where the hub's client wants some; which process is the first

What a stage hands over:
    artifacts       published whole or not at all, replaced by --overwrite, read when whole
    manifest        what an artefact says of itself, and whether its files are those it names
    checkpoint_folders  which checkpoints a run has, which are kept, what --overwrite does with them
    folders         made, replaced, moved aside and removed as a whole: what --overwrite removes, and when
    files           single files, written whole; their digest
    drafts          temporary names, and what dead processes left
    run_lock        one writer a run
    lock_file       a lock that goes with its process
    run_preset      the preset of the run, where its user names none
    notes           what was done with a user's files, for its user and for the manifest
    versions        of Python, the libraries and this program

What goes wrong:
    errors          the exception that is told in one line; making foreign text safe to print
    storage         what a disk refuses
    lack_of_memory  a device or machine that has no memory left
    interrupt       SIGINT and SIGTERM that wait until the work is saved

And:
    parallel        the processes of one run
    progress        a bar or lines on how far a long task is
    main_memory     how much this process has held
    figures         numbers as people read them
"""
