// Package cacheentry says what an entry of cache-from or cache-to means to a node.
//
// It answers where a cache is ([Server], [Registry], [Address]), how a node finds out whether
// that server answers ([Probe]), what gives access to it ([Credentials]), how a cache in a
// directory of this machine reaches the node ([LocalImports], [LocalExport]), and in which
// form clients and solves take the entry ([ForClient], [ForGateway]). Nothing here talks to a
// node or to a registry.
package cacheentry
