help([[A compiler in name only: sets what a site's compiler module sets.]])
whatis("Name: gcc")
whatis("Version: 13")

family("compiler")

setenv("CC", "gcc")
setenv("GCC_VERSION", "13")
