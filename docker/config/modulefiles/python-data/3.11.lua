help([[The system's Python, as a module: enough to try `module load` for real.]])
whatis("Name: python-data")
whatis("Version: 3.11")

family("python")

local software = pathJoin(myFileName():match("^(.*)/modulefiles/"), "software/python-data/3.11")
prepend_path("PATH", pathJoin(software, "bin"))
setenv("PYTHON_DATA_VERSION", "3.11")
setenv("OMP_NUM_THREADS", "1")
