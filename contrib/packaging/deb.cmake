# SPDX-License-Identifier: MIT
# The Debian package, which contrib/packaging/deb builds. It is of a tree that
# was configured for /usr: paths are in files that it installs.

set(packaging ${PROJECT_SOURCE_DIR}/contrib/packaging)
set(changelog ${PROJECT_BINARY_DIR}/changelog.gz)
add_custom_command(OUTPUT ${changelog}
  COMMAND gzip -9nc ${packaging}/changelog > ${changelog}
  DEPENDS ${packaging}/changelog)
add_custom_target(changelog ALL DEPENDS ${changelog})
install(FILES ${changelog} ${packaging}/copyright
  DESTINATION ${CMAKE_INSTALL_DOCDIR})
# Where stores go (`pipcachefs mount` makes only the last level of a path), and
# the one configuration that pipcachefs@pip needs.
install(DIRECTORY DESTINATION /var/lib/pipcachefs)
install(FILES ${PROJECT_SOURCE_DIR}/systemd/pip.conf
  DESTINATION /etc/pipcachefs)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "pipcachefs maintainers <pipcachefs@example.org>"
  CACHE STRING "the Maintainer of the package")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY
  "size-limited, deduplicating pip cache as a FUSE file system")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"pipcachefs makes a store appear as a directory that pip uses as its cache.
Wheels are cut at the members of their ZIP and equal pieces are kept once; the
store never grows past its limit, and what was least recently used goes first.
One mount serves all builds of a host: containers get it by a bind mount.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS fuse3)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS
  "python3-pip, docker.io | docker-ce | buildah | podman")
set(CPACK_DEBIAN_DEBUGINFO_PACKAGE ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${packaging}/postinst ${packaging}/prerm ${packaging}/postrm
  ${packaging}/conffiles)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE
  OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
include(CPack)
