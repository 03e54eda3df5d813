help([[Tools in name only: on the path of modules where a site's profile has put this tree there.]])
whatis("Name: local-tools")
whatis("Version: 1.0")

setenv("LOCAL_TOOLS_VERSION", "1.0")
