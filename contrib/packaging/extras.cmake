# SPDX-License-Identifier: MIT
# What is installed beside the program: manual pages, completions, examples.

# The pages are made of what the program says of itself, by running it.
find_program(HELP2MAN help2man)
if(HELP2MAN AND NOT SANITIZE AND NOT CMAKE_CROSSCOMPILING)
  file(GLOB man_sources CONFIGURE_DEPENDS contrib/man/*)
  add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/man/pipcachefs.8.gz
    COMMAND ${PROJECT_SOURCE_DIR}/contrib/man/make $<TARGET_FILE:pipcachefs>
      ${PROJECT_BINARY_DIR}/man
    DEPENDS pipcachefs ${man_sources} contrib/packaging/changelog
    COMMENT "Writing the manual pages" VERBATIM)
  add_custom_target(man ALL DEPENDS ${PROJECT_BINARY_DIR}/man/pipcachefs.8.gz)
  install(DIRECTORY ${PROJECT_BINARY_DIR}/man/
    DESTINATION ${CMAKE_INSTALL_MANDIR}/man8 OPTIONAL)
elseif(NOT HELP2MAN)
  message(STATUS "no help2man here: no manual pages")
endif()

# Debian's zsh looks for what packages bring in a directory of its own.
set(zsh_completions site-functions)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr" AND EXISTS /etc/debian_version)
  set(zsh_completions vendor-completions)
endif()
set(completions contrib/completions)
install(FILES ${completions}/pipcachefs.bash RENAME pipcachefs
  DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${completions}/_pipcachefs
  DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/${zsh_completions})
install(FILES ${completions}/pipcachefs.fish
  DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

install(DIRECTORY contrib/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
