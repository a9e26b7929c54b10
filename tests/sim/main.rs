//! Deterministic simulation of the whole cluster: two nodes with the production engine, their
//! disks with volatile caches, the network between them, clients, an operator, and faults, all
//! drawn from one seed. An oracle knows what the clients were promised and looks for it.
//!
//! | module | what |
//! | --- | --- |
//! | [`world`], [`perform`], [`requests`] | the cluster, its agenda, and what effects do |
//! | [`node`], [`medium`], [`metadata`], [`slab`] | one machine and its disk |
//! | [`link`] | the network |
//! | [`workload`], [`operator`], [`faults`], [`maintenance`], [`witness`] | who acts, by the mixture of [`swarm`] |
//! | [`oracle`], [`checks`] | what must hold |
//! | [`sabotage`] | planted bugs that must be found |
//! | [`run`], [`seeds`] | one seed from beginning to end; many |
//! | [`scenarios`] | stories with a name |
//! | [`matrix`] | whole nodes: VRRP and coordinators above the engines |
//! | [`production`] | all of it with one engine |

mod agenda;
mod checks;
mod clock;
mod fake;
mod faults;
mod growth;
mod handlers;
mod link;
mod maintenance;
mod matrix;
mod medium;
mod metadata;
mod node;
mod operator;
mod oracle;
mod perform;
mod production;
mod random;
mod recorder;
mod requests;
mod run;
mod sabotage;
mod scenarios;
mod seeds;
mod simulator_tests;
mod slab;
mod stamp;
mod subject;
mod swarm;
mod witness;
mod workload;
mod world;
