package compiler

import "github.com/dbake/dbake/compiler/ir"

func (l *loaded) warnings(p *ir.Project) []*ir.SourceError { return nil }
